"""How the tables came to be: one file a revision, never changed once released."""
