"""The lessons' systems as scripts; ``pygan train NAME`` runs the larger ones."""
