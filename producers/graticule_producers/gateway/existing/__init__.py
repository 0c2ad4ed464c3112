"""The interfaces of services that graticule takes the place of: their clients keep working unchanged."""
