"""Traces of the loop, for OpenTelemetry. The daemon tells each cycle to a helper process (`sender.py`), and the helper
tells OpenTelemetry's own SDK (`exporting.py`). docs/telemetry.md says what there is to see."""
