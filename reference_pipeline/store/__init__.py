"""The database: what is known of exposures, differences, objects and alerts."""
