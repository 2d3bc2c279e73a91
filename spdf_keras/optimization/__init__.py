"""The optimizer, its schedules and the scale of the loss."""
