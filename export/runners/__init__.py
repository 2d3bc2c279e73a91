"""Programs that run exports; none of them imports this package."""
