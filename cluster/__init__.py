"""The command line and what it starts: configuration, Ray sessions, the stages, `ray up` files.
This is the only place that knows all the others; nothing imports it.
Every command runs the same stages that `quaver demo` runs one after the other."""
