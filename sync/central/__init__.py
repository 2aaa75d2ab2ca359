"""The reference central: the Trust Management Appliance's side of docs/SYNC.md."""
