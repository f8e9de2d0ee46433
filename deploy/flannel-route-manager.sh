#!/bin/sh
# flannel-route-manager by its old names, /opt/bin/flannel-route-manager and the one in PATH, with its old flags:
#   docker exec route-manager /opt/bin/flannel-route-manager -delete-all-routes
# Goes through the entry point, so that it has the rights of the container's own process: none.
exec /usr/local/bin/docker-entrypoint.sh route-manager "$@"
