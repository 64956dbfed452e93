"""The gridworld Delivery."""
