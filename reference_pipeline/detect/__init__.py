"""What is new in a difference: candidates, what is wrong with them, and fluxes at given places."""
