"""What a report says of the runs."""
