// A shim for OTE that keeps its cluster in memory. It shows what the contract in proto/ote/api/shim/v1/shim.proto asks
// of a shim; a real one has a real cluster where cluster.js is.
//
//   node main.js --listen unix:/tmp/shim.sock
//   ote-ctl shim conformance unix:/tmp/shim.sock
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

import * as grpc from '@grpc/grpc-js';
import * as protoLoader from '@grpc/proto-loader';
import { ReflectionService } from '@grpc/reflection';
import { HealthImplementation } from 'grpc-health-check';
import descriptor from 'protobufjs/ext/descriptor/index.js';

import { commandType, shimHandlers } from './shim.js';

const { FileDescriptorProto, FileDescriptorSet } = descriptor;

const GRACE_MS = 2000;
const here = path.dirname(fileURLToPath(import.meta.url));

function loadContract() {
  return protoLoader.loadSync('ote/api/shim/v1/shim.proto', {
    includeDirs: [path.join(here, 'proto')],
    longs: Number,
    enums: String,
    defaults: true,
    oneofs: true,
  });
}

// Reflection shows the files as protoc made them in build.sh, the contract, health and what they import: what
// proto-loader derives names neither the imports nor whole types, and clients cannot resolve it.
function reflection() {
  const { file } = FileDescriptorSet.decode(fs.readFileSync(path.join(here, 'descriptors.binpb')));
  const fileDescriptorProtos = file.map((each) => FileDescriptorProto.encode(each).finish());
  return new ReflectionService({ all: { fileDescriptorProtos } });
}

// A socket of an earlier run that was killed is in the way; anything else at this path is not ours to remove.
function removeStaleSocket(address) {
  const socket = address.startsWith('unix:') ? address.slice('unix:'.length) : '';
  if (socket && fs.lstatSync(socket, { throwIfNoEntry: false })?.isSocket()) fs.unlinkSync(socket);
}

function main() {
  const { values } = parseArgs({ options: { listen: { type: 'string', default: '127.0.0.1:8262' } } });
  const contract = loadContract();
  const server = new grpc.Server();
  server.addService(contract['ote.api.shim.v1.ShimService'], shimHandlers(commandType(contract)));
  new HealthImplementation({ '': 'SERVING' }).addToServer(server);
  reflection().addToServer(server);

  removeStaleSocket(values.listen);
  server.bindAsync(values.listen, grpc.ServerCredentials.createInsecure(), (error) => {
    if (error) {
      console.error(`cannot listen on ${values.listen}: ${error.message}`);
      process.exit(1);
    }
    console.error(`listening on ${values.listen}`);
  });
  for (const signal of ['SIGTERM', 'SIGINT']) {
    process.once(signal, () => {
      // WatchStatus calls never end by themselves, so graceful needs a limit.
      setTimeout(() => server.forceShutdown(), GRACE_MS).unref();
      server.tryShutdown(() => process.exit(0));
    });
  }
}

main();
