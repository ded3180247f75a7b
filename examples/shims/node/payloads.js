// Commands that came ahead in pieces, kept until they are used or ten minutes old.
import { createHash } from 'node:crypto';

import { status } from '@grpc/grpc-js';

import { refusal } from './errors.js';

export const MAX_COMMAND_BYTES = 16 * 1024 * 1024;
const KEEP_MS = 10 * 60 * 1000;

export const hashOf = (bytes) => createHash('sha256').update(bytes).digest('hex');

export class Payloads {
  #held = new Map();

  find(hash) {
    return this.#held.get(hash);
  }

  drop(hash) {
    this.#held.delete(hash);
  }

  // Takes one PutPayload call to its end.
  receive(call, answer) {
    let name = null;
    let size = 0;
    const pieces = [];
    const refuse = (code, reason, message) => {
      call.removeAllListeners('data');
      call.removeAllListeners('end');
      call.resume(); // what still comes is thrown away
      answer(refusal(code, reason, message));
    };
    call.on('data', ({ payload, data }) => {
      if (name === null) {
        name = payload ?? {};
        if (name.sha256?.length !== 32) {
          refuse(status.INVALID_ARGUMENT, 'BAD_PAYLOAD', 'the first message names the payload by its SHA-256');
        } else if (name.size > MAX_COMMAND_BYTES) {
          refuse(status.RESOURCE_EXHAUSTED, 'COMMAND_TOO_LARGE', 'the payload is over max_command_bytes');
        }
        return;
      }
      size += data?.length ?? 0;
      if (size > name.size) {
        refuse(status.INVALID_ARGUMENT, 'BAD_PAYLOAD', 'more bytes came than the name says');
      } else {
        pieces.push(data);
      }
    });
    call.on('end', () => {
      const bytes = Buffer.concat(pieces);
      const hash = hashOf(bytes);
      if (name === null || hash !== name.sha256.toString('hex')) {
        refuse(status.INVALID_ARGUMENT, 'BAD_PAYLOAD', 'the bytes are not what their hash says');
        return;
      }
      this.#held.set(hash, bytes);
      setTimeout(() => this.#held.get(hash) === bytes && this.drop(hash), KEEP_MS).unref();
      answer(null, {});
    });
  }
}
