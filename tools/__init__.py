"""Programs that make documents, dashboards and mutants. The router does not use them."""
