// The methods of ShimService.
import { randomUUID } from 'node:crypto';

import { status } from '@grpc/grpc-js';

import { BadManifest, Cluster, parse } from './cluster.js';
import { refusal } from './errors.js';
import { Memory } from './memory.js';
import { MAX_COMMAND_BYTES, Payloads, hashOf } from './payloads.js';

const DEFAULT_READY_MS = 5 * 60 * 1000;
const STATUS_INTERVAL_MS = 1000;
const LONGEST_TIMER_MS = 2 ** 31 - 1;

const CHANGES = new Set(['apply', 'delete', 'noop']);
const ID = /^[ -~]{1,128}$/;

const failed = (reason, message, objects = []) => ({ outcome: 'OUTCOME_FAILED', reason, message, objects });

const millis = ({ seconds, nanos }) => Math.min(seconds * 1000 + nanos / 1e6, LONGEST_TIMER_MS);

function timer(wait) {
  let handle;
  const rings = new Promise((resolve) => {
    if (wait !== undefined) handle = setTimeout(resolve, wait);
  });
  return { rings, clear: () => clearTimeout(handle) };
}

// How a Command is read from the bytes of a payload and written to be hashed: the contract's own message type, which
// proto-loader gives us as the request of a made-up method.
export function commandType(contract) {
  const { requestSerialize, requestDeserialize } = contract['ote.api.shim.v1.ShimService'].Execute;
  const COMMAND_TAG = 0x12; // field 2 of ExecuteRequest, with a length
  return {
    encode: (command) => requestSerialize({ command }),
    decode: (bytes) => {
      const length = [];
      let rest = bytes.length;
      for (; rest > 0x7f; rest >>>= 7) length.push((rest & 0x7f) | 0x80);
      return requestDeserialize(Buffer.concat([Buffer.from([COMMAND_TAG, ...length, rest]), bytes])).command;
    },
  };
}

export function shimHandlers(type) {
  const instance = randomUUID();
  const cluster = new Cluster();
  const memory = new Memory();
  const payloads = new Payloads();

  function getShimInfo(call, answer) {
    answer(null, {
      name: 'ote-memory-shim-node',
      kind: 'memory',
      version: '1.0.0',
      protocolVersion: 'v1',
      capabilities: ['apply', 'delete', 'get', 'noop', 'status', 'put_payload'],
      instanceId: instance,
      memory: 'MEMORY_INSTANCE',
      maxCommandBytes: MAX_COMMAND_BYTES,
    });
  }

  // The command and a hash that stands for it; the command is null where its payload is not here.
  function readBody({ body, command, payload }) {
    if (body === 'command') return { command, content: hashOf(type.encode(command)) };
    if (body !== 'payload') throw refusal(status.INVALID_ARGUMENT, 'NO_COMMAND', 'there is no command in the request');
    const content = payload.sha256.toString('hex');
    const bytes = payloads.find(content);
    if (!bytes) return { command: null, content };
    try {
      return { command: type.decode(bytes), content };
    } catch {
      throw refusal(status.INVALID_ARGUMENT, 'BAD_COMMAND', 'the payload is not a command');
    }
  }

  function checkId(id) {
    if (!ID.test(id)) {
      throw refusal(status.INVALID_ARGUMENT, 'BAD_DISPATCH_ID', 'dispatch_id: 1 to 128 characters of printable ASCII');
    }
  }

  // The command of this id, begun now if it is new. There is no await in here: two calls with the same new id cannot both
  // find that it is new.
  function enter(request) {
    const { command, content } = readBody(request);
    if (command && !CHANGES.has(command.kind)) {
      throw refusal(status.UNIMPLEMENTED, 'UNSUPPORTED', 'this shim does not execute that kind of command');
    }
    checkId(request.dispatchId);
    const known = memory.find(request.dispatchId);
    if (known?.content && known.content !== content) {
      throw refusal(status.ALREADY_EXISTS, 'DISPATCH_EXISTS', 'the id was used with other content');
    }
    if (known?.content) return known;
    if (!command) throw refusal(status.FAILED_PRECONDITION, 'PAYLOAD_MISSING', 'put the payload first');
    if (known) {
      known.content = content;
      known.end({ ...failed('CANCELLED', 'cancelled before it came'), outcome: 'OUTCOME_CANCELLED' });
      return known;
    }
    const entered = memory.add(request.dispatchId, content);
    payloads.drop(content);
    run(entered, command, request.timeout);
    return entered;
  }

  function run(entered, command, timeout) {
    if (command.kind === 'apply') {
      apply(entered, command.apply, timeout).catch((error) => entered.end(failed('INTERNAL', error.message)));
    } else if (command.kind === 'delete') {
      entered.end(remove(command.delete));
    } else {
      entered.end({ outcome: 'OUTCOME_SUCCEEDED' });
    }
  }

  async function apply(entered, { manifests, readyTimeout }, timeout) {
    let objects;
    try {
      objects = cluster.apply(parse(manifests));
    } catch (error) {
      if (!(error instanceof BadManifest)) throw error;
      entered.end(failed('INVALID_MANIFEST', error.message));
      return;
    }
    const ready = objects.filter((one) => one.ready).length;
    const watch = readyTimeout ? millis(readyTimeout) : DEFAULT_READY_MS;
    if (ready === objects.length || watch <= 0) {
      entered.end({ outcome: 'OUTCOME_SUCCEEDED', objects });
      return;
    }
    const message = `${ready} of ${objects.length} objects ready`;
    entered.progress({ message, objects, effectDone: true });
    // The effect stays whatever ends the wait, so it never ends CANCELLED.
    const patience = timer(watch);
    const limit = timer(timeout ? millis(timeout) : undefined);
    const reason = await Promise.race([
      patience.rings.then(() => 'NOT_READY'),
      limit.rings.then(() => 'DEADLINE_EXCEEDED'),
      entered.cancelled.then(() => 'CANCELLED'),
    ]);
    patience.clear();
    limit.clear();
    entered.end(failed(reason, message, objects));
  }

  function remove({ objects, manifests }) {
    try {
      const more = manifests.length ? parse(manifests).map((one) => one.ref) : [];
      return { outcome: 'OUTCOME_SUCCEEDED', objects: cluster.delete([...objects, ...more]) };
    } catch (error) {
      if (!(error instanceof BadManifest)) throw error;
      return failed('INVALID_MANIFEST', error.message);
    }
  }

  function read(get) {
    if (!get.kind || (get.name && get.allNamespaces)) {
      throw refusal(status.INVALID_ARGUMENT, 'BAD_GET', 'get needs a kind, and a name is looked up in one namespace');
    }
    const found = cluster.get(get);
    if (get.name && !found.length) return failed('NOT_FOUND', `there is no ${get.kind} ${get.name}`);
    return { outcome: 'OUTCOME_SUCCEEDED', output: Buffer.from(`[${found.join(',')}]`) };
  }

  function execute(call) {
    const { request } = call;
    memory.forget(request.forget);
    try {
      if (request.command?.kind === 'get') {
        call.write({ result: read(request.command.get) });
        call.end();
      } else {
        enter(request).follow(call);
      }
    } catch (error) {
      call.emit('error', error);
    }
  }

  function cancel(call, answer) {
    try {
      checkId(call.request.dispatchId);
      answer(null, { state: memory.cancel(call.request.dispatchId) });
    } catch (error) {
      answer(error);
    }
  }

  function watchStatus(call) {
    let sent = -1;
    const send = () => {
      if (cluster.version === sent) return;
      sent = cluster.version;
      const now = Date.now();
      const asOf = { seconds: Math.floor(now / 1000), nanos: (now % 1000) * 1e6 };
      call.write({ status: { ready: true, nodes: 1, nodesReady: 1, workloads: cluster.count(), asOf } });
    };
    send();
    const ticking = setInterval(send, STATUS_INTERVAL_MS);
    call.on('cancelled', () => clearInterval(ticking));
  }

  return {
    GetShimInfo: getShimInfo,
    Execute: execute,
    Cancel: cancel,
    PutPayload: (call, answer) => payloads.receive(call, answer),
    WatchStatus: watchStatus,
  };
}
