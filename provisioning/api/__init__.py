"""The REST interface for stations that do the work at devices themselves: ``/api/v1/line/``, docs/line/station.md."""
