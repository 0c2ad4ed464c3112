"""The gateway: HTTP uploads, results, the web page, and the interfaces of clients that already exist."""
