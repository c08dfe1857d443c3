"""Plain rebuilds of the definitions, from the specification alone; no code of the product."""
