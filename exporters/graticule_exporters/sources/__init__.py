"""Where trained networks come from: one module for each kind of source, loaded only when it is asked for."""
