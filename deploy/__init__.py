"""How the pair is run: on one machine, in containers; and which models it runs on."""
