#!/bin/sh
# flannel-registrar's script, by its old name and with its old arguments (--once, --daemon, --diagnose, --help):
#   docker exec flannel-registrar /usr/local/bin/register-docker-networks.sh --diagnose
# Goes through the entry point, so that it has the rights that the container's own process has, and no others.
exec /usr/local/bin/docker-entrypoint.sh registrar "$@"
