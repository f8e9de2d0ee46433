#!/bin/sh
# Installs weft into /opt/weft, or brings what is there up to date.
#
#   install.sh PACKAGE          what pip is to install: weft, weft==0.1.0, a URL, a path
set -eu

package=${1:?usage: install.sh PACKAGE}
[ -x /opt/weft/bin/pip ] || python3 -m venv /opt/weft
/opt/weft/bin/pip install --quiet --disable-pip-version-check --upgrade "$package"
ln -sf /opt/weft/bin/weft /usr/local/bin/weft
