#!/bin/sh
# docker-router's programs by their documented names, /app/discovery and /app/router:
#   docker exec -it router /app/router show peers
# Alone, they are the daemons. Both go through the entry point, so that what is asked has the rights of what is running.
exec /usr/local/bin/docker-entrypoint.sh "${0##*/}" "$@"
