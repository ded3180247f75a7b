// Errors that end a call. What happened to a command is never told this way, but in its result.
import { Metadata } from '@grpc/grpc-js';

// One length-delimited protobuf field.
function field(number, bytes) {
  const length = [];
  let rest = bytes.length;
  for (; rest > 0x7f; rest >>>= 7) length.push((rest & 0x7f) | 0x80);
  return Buffer.concat([Buffer.from([(number << 3) | 2, ...length, rest]), bytes]);
}

// The reason travels as google.rpc.Status{code, message, details: [ErrorInfo{reason, domain}]}.
export function refusal(code, reason, message) {
  const info = Buffer.concat([field(1, Buffer.from(reason)), field(2, Buffer.from('ote.dev'))]);
  const detail = Buffer.concat([field(1, Buffer.from('type.googleapis.com/google.rpc.ErrorInfo')), field(2, info)]);
  const metadata = new Metadata();
  metadata.set(
    'grpc-status-details-bin',
    Buffer.concat([Buffer.from([0x08, code]), field(2, Buffer.from(message)), field(3, detail)]),
  );
  return { code, details: message, metadata };
}
