"""A controller made of queued answers, on a real socket. A test fails when an answer was not used, or is missing."""

from __future__ import annotations

import socket
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any

import grpc
from grpc_status import rpc_status

from ote.api.cluster.v1 import cluster_pb2, cluster_pb2_grpc
from ote.api.command.v1 import command_pb2
from ote.api.route.v1 import route_pb2, route_pb2_grpc
from ote.api.trust.v1 import trust_pb2_grpc
from ote.model.errors import Internal, OteError
from ote.rpc.address import reserve
from ote.rpc.errors import to_status
from ote.rpc.server import SERVER_OPTIONS
from ote.rpc.tls import ServerTls, TlsIdentity

HANG = object()
"""In a stream: stay open and say nothing more."""

_STREAMS = {"Dispatch", "WatchDispatch", "WatchClusters"}


class FakeController:
    """Answers each method with what was queued for it, in order, and keeps what it was asked.

    An answer is a message, an error to raise, for a stream a list of those; or a function of the request that gives it.
    GetCluster(".") is answered without a queue. Used with `with`, it listens; its address is its own until the end.
    """

    def __init__(self, name: str = "root", *, tls: TlsIdentity | None = None) -> None:
        self._tls = tls
        self.me = cluster_pb2.Cluster(name=name, uid=f"uid-{name}", version="9.9", path=[name])
        self.requests: dict[str, list[Any]] = defaultdict(list)
        self.asked = threading.Event()
        """Set once a stream is being answered."""
        self.hasty = False
        """Answers a stream of requests after the first of them."""
        self.address = ""
        self._answers: dict[str, deque[Any]] = defaultdict(deque)
        self._stopped = threading.Event()
        self._server: grpc.Server | None = None
        self._held: socket.socket | None = None

    def __enter__(self) -> FakeController:
        self.address, self._held = reserve("127.0.0.1")
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
        assert self._held is not None
        self._held.close()

    def will(self, method: str, *answers: Any) -> None:
        """Queues answers."""
        self._answers[method].extend(answers)

    def forget(self, method: str) -> None:
        """Drops the answers that are left."""
        self._answers[method].clear()

    def start(self) -> None:
        """Listens, again after a stop."""
        self._stopped.clear()
        server = grpc.server(ThreadPoolExecutor(16), options=SERVER_OPTIONS)
        services: list[tuple[type, Callable[[Any, grpc.Server], None]]] = [
            (cluster_pb2_grpc.ClusterServiceServicer, cluster_pb2_grpc.add_ClusterServiceServicer_to_server),
            (route_pb2_grpc.RouteServiceServicer, route_pb2_grpc.add_RouteServiceServicer_to_server),
            (trust_pb2_grpc.TrustServiceServicer, trust_pb2_grpc.add_TrustServiceServicer_to_server),
        ]
        for service, add in services:
            add(self._servicer(service), server)
        if self._tls:
            server.add_secure_port(self.address, ServerTls(self._tls).credentials())
        else:
            server.add_insecure_port(self.address)
        server.start()
        self._server = server

    def stop(self) -> None:
        """Cuts everything off. A stream that hangs ends when nobody can connect any more."""
        if self._server is not None:
            ended = self._server.stop(0)
            self._stopped.set()
            ended.wait()
            self._server = None

    def unused(self) -> dict[str, int]:
        """How many answers of each method nobody asked for."""
        return {method: len(answers) for method, answers in self._answers.items() if answers}

    def _servicer(self, base: type) -> object:
        methods = {
            name: self._stream(name) if name in _STREAMS else self._unary(name)
            for name in vars(base)
            if not name.startswith("_")
        }
        return type(f"Fake{base.__name__}", (base,), methods)()

    def _next(self, method: str, request: Any) -> Any:
        self.requests[method].append(request)
        if method == "GetCluster" and request.name == "." and not self._answers[method]:
            return cluster_pb2.GetClusterResponse(cluster=self.me)
        if not self._answers[method]:
            self._answers[f"missing: {method}"].append(request)
            return Internal("NO_ANSWER", f"the test has no answer for {method}")
        answer = self._answers[method].popleft()
        return answer(request) if callable(answer) else answer

    def _unary(self, method: str) -> Callable[..., Any]:
        def answer(_: object, request: Any, context: grpc.ServicerContext) -> Any:
            if isinstance(request, Iterator):
                request = [next(request)] if self.hasty else list(request)
            return _told(self._next(method, request), context)

        return answer

    def _stream(self, method: str) -> Callable[..., Iterator[Any]]:
        def answer(_: object, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            answers = self._next(method, request)
            self.asked.set()
            for one in answers if isinstance(answers, list | Iterator) else [answers]:
                if one is HANG:
                    while context.is_active() and not self._stopped.wait(0.02):
                        pass
                    return
                yield _told(one, context)

        return answer


def _told(answer: Any, context: grpc.ServicerContext) -> Any:
    if isinstance(answer, OteError):
        context.abort_with_status(rpc_status.to_status(to_status(answer)))
    return answer


def target(cluster: str, state: str, message: str = "", **fields: Any) -> route_pb2.Target:
    """A target of a dispatch."""
    value = route_pb2.TargetState.Value(f"TARGET_STATE_{state}")
    return route_pb2.Target(cluster=cluster, uid=f"uid-{cluster}", state=value, message=message, **fields)


def story(*events: Any) -> Callable[[Any], list[Any]]:
    """The answer to Dispatch or WatchDispatch: targets (the first group as accepted), then a summary unless it HANGs.

    events: a list of targets for "accepted", single targets, HANG, errors.
    """

    def answer(request: Any) -> list[Any]:
        is_dispatch = isinstance(request, route_pb2.DispatchRequest)
        kind = route_pb2.DispatchResponse if is_dispatch else route_pb2.WatchDispatchResponse
        name = f"root/{request.dispatch_id}" if is_dispatch else request.dispatch
        answers: list[Any] = []
        for event in events:
            if isinstance(event, list):
                answers.append(kind(accepted=route_pb2.Accepted(dispatch=name, targets=event)))
            elif isinstance(event, route_pb2.Target):
                answers.append(kind(changed=route_pb2.Targets(targets=[event])))
            else:
                answers.append(event)
        if not any(event is HANG or isinstance(event, OteError) for event in events):
            answers.append(kind(summary=route_pb2.Summary()))
        return answers

    return answer


def done(kind: str, name: str, action: str = "CREATED") -> command_pb2.ObjectResult:
    """What happened to an object."""
    return command_pb2.ObjectResult(
        object=command_pb2.ObjectRef(kind=kind, name=name, namespace="default"),
        action=command_pb2.Action.Value(f"ACTION_{action}"),
    )


def cluster(
    name: str, parent: str = "root", state: str = "ONLINE", tags: Sequence[str] = (), shim: str = "local", **fields: Any
) -> cluster_pb2.Cluster:
    """A cluster of the registry."""
    path: Iterable[str] = fields.pop("path", ["root", name])
    return cluster_pb2.Cluster(
        name=name,
        uid=f"uid-{name}",
        state=cluster_pb2.ClusterState.Value(f"CLUSTER_STATE_{state}"),
        parent=parent,
        configured_parent=fields.pop("configured_parent", parent),
        path=path,
        tags=tags,
        shim=cluster_pb2.Shim(kind=shim, name="ote-local-shim", version="1", capabilities=["apply"]) if shim else None,
        **fields,
    )
