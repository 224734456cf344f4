"""What an operator looks at: pages on the web port of a worker."""
