// What is remembered of dispatch ids. A command lives apart from the calls that look at it: a call that is lost takes
// nothing with it.
import { EventEmitter } from 'node:events';

export class Command {
  events = [];
  over = false;
  #news = new EventEmitter().setMaxListeners(0);

  // content: a hash of what came under the id; null means cancelled before it came.
  constructor(content) {
    this.content = content;
    this.cancelled = new Promise((resolve) => {
      this.cancel = resolve;
    });
  }

  say(event) {
    this.events.push(event);
    this.over = 'result' in event;
    this.#news.emit('event', event);
  }

  progress(progress) {
    this.say({ progress });
  }

  end(result) {
    this.say({ result });
  }

  // Sends all events, past and future, until the result; then ends the call. It only looks.
  follow(call) {
    const send = (event) => {
      call.write(event);
      if ('result' in event) call.end();
    };
    this.events.forEach(send);
    if (this.over) return;
    this.#news.on('event', send);
    call.on('cancelled', () => this.#news.off('event', send));
  }
}

export class Memory {
  #commands = new Map();

  find(id) {
    return this.#commands.get(id);
  }

  add(id, content) {
    const command = new Command(content);
    this.#commands.set(id, command);
    return command;
  }

  cancel(id) {
    const command = this.find(id) ?? this.add(id, null);
    if (command.content === null) return 'CANCEL_STATE_UNKNOWN';
    if (command.over) return 'CANCEL_STATE_FINISHED';
    command.cancel();
    return 'CANCEL_STATE_CANCELLING';
  }

  // Drops ids that will never come again; one that runs is kept until it has ended.
  forget(ids) {
    for (const id of ids) {
      const command = this.find(id);
      if (command && (command.over || command.content === null)) this.#commands.delete(id);
    }
  }
}
