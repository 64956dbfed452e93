"""Commands that look at what there is: tasks, agents, the installation."""
