"""The red team: attacks on protected templates, sorted by what an attacker knows, and one report of all of them."""
