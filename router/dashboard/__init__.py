"""The dashboard: a page of static files, and what it is told, once a second, of the fleet."""
