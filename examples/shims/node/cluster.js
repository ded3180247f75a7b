// The cluster: objects in a map, and the manifests that make them.
import { parseAllDocuments } from 'yaml';

// Lets somebody see what happens to objects that do not become ready: nothing in memory takes time.
const READY_ANNOTATION = 'conformance.ote.dev/ready';

// Kubernetes uses names as path segments, and so may whoever reads ours.
const NAME = /^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$/;

const CLUSTER_SCOPED = new Set(['namespace', 'node']);

// What is wrong with a manifest, for people.
export class BadManifest extends Error {}

function place(kind, namespace, name) {
  const singular = kind.toLowerCase().replace(/s$/, '');
  return { kind: singular, namespace: CLUSTER_SCOPED.has(singular) ? '' : namespace || 'default', name };
}

const keyOf = (at) => `${at.kind}/${at.namespace}/${at.name}`;

const isObject = (value) => typeof value === 'object' && value !== null && !Array.isArray(value);

// One spelling for equal content: keys sorted at every level.
function canonical(value) {
  return JSON.stringify(value, (_, inner) =>
    isObject(inner) ? Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : 1))) : inner,
  );
}

function check(content) {
  const metadata = isObject(content) ? content.metadata : undefined;
  if (!isObject(metadata)) throw new BadManifest('a document is not an object with metadata');
  const { apiVersion, kind } = content;
  if (typeof apiVersion !== 'string' || typeof kind !== 'string' || !apiVersion || !kind) {
    throw new BadManifest('an object has no apiVersion or no kind');
  }
  for (const name of [metadata.name, metadata.namespace ?? 'default']) {
    if (typeof name !== 'string' || !NAME.test(name)) {
      throw new BadManifest(`${JSON.stringify(name)?.slice(0, 40)} cannot be a name`);
    }
  }
  const at = place(kind, metadata.namespace, metadata.name);
  if (at.namespace) metadata.namespace = at.namespace;
  return {
    ref: { apiVersion, kind, namespace: at.namespace, name: at.name },
    ready: metadata.annotations?.[READY_ANNOTATION] !== 'never',
    json: canonical(content),
  };
}

// Checks all manifests; throws BadManifest when one of them may not be applied, so that none is.
export function parse(bytes) {
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
    const found = [];
    for (const document of parseAllDocuments(text)) {
      if (document.errors.length) throw document.errors[0];
      const content = document.toJS(); // refuses more than a hundred aliases: no bombs
      if (content !== null) found.push(check(content));
    }
    if (!found.length) throw new BadManifest('there is no object in the manifests');
    return found;
  } catch (error) {
    // The parser, the decoder and the stack each have their own way to say that this is no manifest.
    throw error instanceof BadManifest ? error : new BadManifest(`the manifests do not parse: ${error.message}`);
  }
}

export class Cluster {
  #objects = new Map();

  // Counts changes.
  version = 0;

  apply(manifests) {
    this.version += 1;
    return manifests.map((one) => {
      const key = keyOf(place(one.ref.kind, one.ref.namespace, one.ref.name));
      const before = this.#objects.get(key);
      this.#objects.set(key, one);
      let action = 'ACTION_CREATED';
      if (before) action = before.json === one.json ? 'ACTION_UNCHANGED' : 'ACTION_CONFIGURED';
      return { object: one.ref, action, ready: one.ready };
    });
  }

  delete(refs) {
    this.version += 1;
    return refs.map((ref) => {
      const existed = this.#objects.delete(keyOf(place(ref.kind, ref.namespace, ref.name)));
      return { object: ref, action: existed ? 'ACTION_DELETED' : 'ACTION_ABSENT', ready: true };
    });
  }

  // The JSON texts of the objects that a get asks for.
  get({ kind, namespace, name, allNamespaces }) {
    const wanted = place(kind, namespace, name);
    const found = [];
    for (const one of this.#objects.values()) {
      const at = place(one.ref.kind, one.ref.namespace, one.ref.name);
      const matches = at.kind === wanted.kind && (allNamespaces || at.namespace === wanted.namespace);
      if (matches && (!name || at.name === name)) found.push(one.json);
    }
    return found;
  }

  // Number of objects by kind.
  count() {
    const counted = {};
    for (const { ref } of this.#objects.values()) counted[ref.kind] = (counted[ref.kind] ?? 0) + 1;
    return counted;
  }
}
