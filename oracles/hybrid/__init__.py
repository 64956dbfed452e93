"""A cheap and a costly rater together."""
