"""A tree of controllers in virtual time: the real core of each, around it a world that can be cut, killed and set back.

`world` has time and what a test can do; `process` carries out a core's effects as the shell does; `links` are tunnels;
`disk` what survives; `shim` where effects happen and are counted; `checks` what must hold; `script` and `trace` are the
scenario files; `history` makes random ones. Nothing here decides anything for a controller.
"""
