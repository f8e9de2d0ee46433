"""What a running agent tells about itself, over HTTP on a unix socket."""
