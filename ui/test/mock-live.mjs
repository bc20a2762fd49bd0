// The WebSocket side of the mock: views as multisets with a history of ticks, frames, resume tokens.
import { WebSocketServer } from 'ws';

const historyLength = 600;

export class MockView {
  constructor(name, columns) {
    this.name = name;
    this.columns = columns;
    this.incarnation = Math.random().toString(36).slice(2, 8);
    /** JSON of the values → count */
    this.rows = new Map();
    this.pending = new Map();
    /** [{ tick, deltas: Map }] of the last ticks */
    this.history = [];
    this.upper = 0;
  }

  change(values, diff) {
    const key = JSON.stringify(values);
    this.pending.set(key, (this.pending.get(key) ?? 0) + diff);
  }

  tick(tick) {
    const deltas = new Map();
    for (const [key, diff] of this.pending) {
      if (diff === 0) continue;
      deltas.set(key, diff);
      const count = (this.rows.get(key) ?? 0) + diff;
      if (count === 0) this.rows.delete(key);
      else this.rows.set(key, count);
    }
    this.pending = new Map();
    this.history.push({ tick, deltas });
    if (this.history.length > historyLength) this.history.shift();
    this.upper = tick + 1;
  }

  /** Whether the history covers the ticks from `upper` on. */
  covers(upper) {
    const first = this.history[0];
    return first !== undefined && upper > first.tick && upper <= this.upper;
  }

  since(upper) {
    const net = new Map();
    for (const { tick, deltas } of this.history) {
      if (tick < upper) continue;
      for (const [key, diff] of deltas) net.set(key, (net.get(key) ?? 0) + diff);
    }
    return net;
  }
}

const kinds = { Int64: true };

export class MockLive {
  views = new Map();
  lineage = 'lineage-1';
  /** Set to refuse resume tokens, as a server does that has forgotten the ticks. */
  forgetful = false;
  stats = { subscribes: 0, resumed: 0, resets: 0, connections: 0 };
  /** When true the next frame of every subscription is left out: a fault that a reader must notice. */
  skipFrame = false;
  #sockets = new Set();
  #server = new WebSocketServer({ noServer: true, perMessageDeflate: false, handleProtocols: () => 'pyflare' });

  attach(httpServer, ready) {
    httpServer.on('upgrade', (request, socket, head) => {
      if (new URL(request.url, 'http://x').pathname !== '/api/v1/live' || !ready(request)) {
        socket.end('HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\n\r\n');
        return;
      }
      this.#server.handleUpgrade(request, socket, head, (client) => this.#accept(client));
    });
  }

  dropConnections() {
    for (const { client } of this.#sockets) client.terminate();
  }

  #accept(client) {
    this.stats.connections++;
    const connection = { client, subscriptions: new Map() };
    this.#sockets.add(connection);
    client.on('close', () => this.#sockets.delete(connection));
    client.on('error', () => undefined);
    client.on('message', (data) => {
      let message;
      try {
        message = JSON.parse(String(data));
      } catch {
        client.send(JSON.stringify({ type: 'error', id: null, code: 'PF-5015', message: 'the message cannot be understood' }));
        return;
      }
      if (message.type === 'unsubscribe') connection.subscriptions.delete(message.id);
      if (message.type === 'subscribe') this.#subscribe(connection, message);
    });
  }

  #subscribe(connection, message) {
    this.stats.subscribes++;
    const name = String(message.view ?? '').replace(/^live\./, '');
    const view = this.views.get(name);
    const say = (body) => connection.client.send(JSON.stringify(body));
    if (!view) {
      say({ type: 'error', id: message.id, code: 'PF-5013', message: `there is no view ${JSON.stringify(name)}`, hint: `there are: ${[...this.views.keys()].join(', ')}` });
      return;
    }
    say({ type: 'schema', id: message.id, columns: view.columns });
    const subscription = { id: message.id, view, upper: null, asText: message.int64 === 'string' };
    const [lineage, incarnation, upper] = String(message.resume ?? '').split('/');
    if (!this.forgetful && lineage === this.lineage && incarnation === view.incarnation && view.covers(Number(upper))) {
      this.stats.resumed++;
      subscription.upper = Number(upper);
      this.#send(connection, subscription, view.since(Number(upper)), false);
    } else {
      this.stats.resets++;
      this.#send(connection, subscription, view.rows, true);
    }
    connection.subscriptions.set(message.id, subscription);
  }

  #send(connection, subscription, deltas, reset) {
    const { view } = subscription;
    const lower = reset ? view.upper : subscription.upper;
    const numbers = subscription.asText ? [] : view.columns.flatMap((column, index) => (kinds[column.type] ? [index] : []));
    const rows = [];
    for (const [key, diff] of deltas) {
      if (diff === 0) continue;
      const values = JSON.parse(key);
      for (const index of numbers) values[index] = values[index] === null ? null : Number(values[index]);
      rows.push([diff, ...values]);
    }
    subscription.upper = view.upper;
    connection.client.send(JSON.stringify({ type: 'frame', id: subscription.id, lower: reset ? 0 : lower, upper: view.upper, reset, rows, resume: `${this.lineage}/${view.incarnation}/${view.upper}` }));
  }

  /** Ends a view's tick and sends it to everybody who watches. */
  publish(view, tick) {
    view.tick(tick);
    for (const connection of this.#sockets) {
      for (const subscription of connection.subscriptions.values()) {
        if (subscription.view !== view) continue;
        if (this.skipFrame) subscription.upper = view.upper;
        else this.#send(connection, subscription, view.since(subscription.upper), false);
      }
    }
  }

  drop(name) {
    const view = this.views.get(name);
    this.views.delete(name);
    for (const connection of this.#sockets) {
      for (const [id, subscription] of connection.subscriptions) {
        if (subscription.view !== view) continue;
        connection.client.send(JSON.stringify({ type: 'end', id, reason: 'the monitor was dropped' }));
        connection.subscriptions.delete(id);
      }
    }
  }

  close() {
    this.dropConnections();
    this.#server.close();
  }
}
