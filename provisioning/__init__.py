"""The production line: puts IDevIDs (IEEE 802.1AR-2018) into devices, each exactly one, and accounts for every one of them."""
