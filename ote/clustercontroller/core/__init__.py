"""What a controller decides, without a socket, a clock or a random number of its own.

Events go in (`events`), effects come out (`effects`), time is an argument. `controller.Controller` owns the parts:

* `registry` — what is known of every cluster in the subtree; next hop, path and state are derived by following parents.
* `children` — the parent's side of the tunnel: who may attach, who left, what they are told.
* `parents` — the child's side: the beat, candidates, moves, return, drain.
* `origin` — dispatches that were accepted here, until their last target is settled.
* `target` — changes that are to take effect here: order, at most once, results until they are acknowledged.
* `router` — everything that only passes through.

All of them share one `context.Context` and write their effects into it, in order. The same core runs in the controller
process and in the simulator of the scenario tests.
"""
