"""The embedded cluster: real Redis, a real S3 server, a worker and Flower as supervised child processes."""
