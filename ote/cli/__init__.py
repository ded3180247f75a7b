"""ote-ctl: a view of the tree for people and scripts. Nothing is decided here; every verb asks a controller."""
