"""From a candidate to an alert in somebody's hands: cutouts, packets, the outbox and where it leads."""
