"""Store and forward between gateways and central; see docs/SYNC.md."""
