/**
 * One WebSocket for all subscriptions of the page.
 *
 * Keeps these promises of the protocol on the reader's side: frames of one subscription follow on without gap or
 * overlap (a gap is never papered over: the subscription starts again with a snapshot); after a lost connection each
 * subscription resumes from its last token; answers to an old socket or an old subscription never reach the new one.
 * A socket that is silent longer than `silence` is taken for dead, since progress comes at least once a second.
 */
import { parseServerMessage, subscribeMessage, unsubscribeMessage, type Column, type Frame, type ServerMessage, type Target } from './protocol.ts';

export interface SubscriptionHandler {
  schema(columns: readonly Column[]): void;
  frame(frame: Frame): void;
  error(code: string, message: string, hint: string | null): void;
  end(reason: string): void;
}

export interface Subscription {
  close(): void;
}

export type ConnectionState =
  | { readonly kind: 'idle' }
  | { readonly kind: 'connecting'; readonly attempt: number }
  | { readonly kind: 'open' }
  | { readonly kind: 'waiting'; readonly attempt: number; readonly retryAt: number };

/** The part of `WebSocket` that is used; tests bring their own. */
export interface Socket {
  onopen: ((event: Event) => void) | null;
  onmessage: ((event: MessageEvent) => void) | null;
  onclose: ((event: CloseEvent) => void) | null;
  onerror: ((event: Event) => void) | null;
  send(data: string): void;
  close(): void;
}

export interface ConnectionOptions {
  readonly open: () => Socket;
  readonly firstDelay?: number;
  readonly longestDelay?: number;
  readonly silence?: number;
  readonly random?: () => number;
  readonly now?: () => number;
}

interface Entry {
  id: string;
  readonly target: Target;
  readonly handler: SubscriptionHandler;
  resume: string | null;
  upper: number | null;
  /** Set by `error` and `end`: nothing more is expected until the next connection. */
  over: boolean;
}

export class LiveConnection {
  readonly #options: Required<ConnectionOptions>;
  readonly #entries = new Set<Entry>();
  readonly #listeners = new Set<() => void>();
  #state: ConnectionState = { kind: 'idle' };
  #socket: Socket | null = null;
  #nextId = 1;
  #attempt = 0;
  #retryTimer: ReturnType<typeof setTimeout> | undefined;
  #silenceTimer: ReturnType<typeof setTimeout> | undefined;

  constructor(options: ConnectionOptions) {
    this.#options = { firstDelay: 250, longestDelay: 10_000, silence: 15_000, random: Math.random, now: Date.now, ...options };
  }

  get state(): ConnectionState {
    return this.#state;
  }

  onState(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  subscribe(target: Target, handler: SubscriptionHandler): Subscription {
    const entry: Entry = { id: this.#newId(), target, handler, resume: null, upper: null, over: false };
    this.#entries.add(entry);
    if (this.#state.kind === 'open') this.#send(subscribeMessage(entry.id, target, null));
    else if (this.#state.kind === 'idle') this.#connect();
    return {
      close: () => {
        if (!this.#entries.delete(entry)) return;
        if (this.#state.kind === 'open' && !entry.over) this.#send(unsubscribeMessage(entry.id));
        if (this.#entries.size === 0) this.#rest();
      },
    };
  }

  /** Tries at once instead of waiting for the next attempt. */
  retryNow(): void {
    if (this.#state.kind === 'waiting') this.#connect();
  }

  /** Begins anew, with snapshots: the connection now speaks for another project or with another key. */
  restart(): void {
    for (const entry of this.#entries) {
      entry.resume = null;
      entry.upper = null;
      entry.over = false;
    }
    this.#attempt = 0;
    if (this.#state.kind !== 'idle') this.#connect();
  }

  #newId(): string {
    return `s${this.#nextId++}`;
  }

  #setState(state: ConnectionState): void {
    this.#state = state;
    for (const listener of this.#listeners) listener();
  }

  #send(message: string): void {
    this.#socket?.send(message);
  }

  #detach(): void {
    clearTimeout(this.#retryTimer);
    clearTimeout(this.#silenceTimer);
    const socket = this.#socket;
    this.#socket = null;
    if (!socket) return;
    socket.onopen = socket.onmessage = socket.onclose = socket.onerror = null;
    socket.close();
  }

  #rest(): void {
    this.#detach();
    this.#attempt = 0;
    this.#setState({ kind: 'idle' });
  }

  #connect(): void {
    this.#detach();
    this.#setState({ kind: 'connecting', attempt: this.#attempt });
    const socket = this.#options.open();
    this.#socket = socket;
    socket.onopen = () => {
      this.#setState({ kind: 'open' });
      this.#watchSilence();
      for (const entry of this.#entries) {
        entry.over = false;
        this.#send(subscribeMessage(entry.id, entry.target, entry.resume));
      }
    };
    socket.onmessage = (event) => {
      this.#watchSilence();
      const message = typeof event.data === 'string' ? parseServerMessage(event.data) : null;
      if (message === null) return;
      this.#attempt = 0;
      this.#receive(message);
    };
    socket.onclose = () => this.#lost();
    socket.onerror = () => this.#lost();
    this.#watchSilence();
  }

  #watchSilence(): void {
    clearTimeout(this.#silenceTimer);
    this.#silenceTimer = setTimeout(() => this.#lost(), this.#options.silence);
  }

  #lost(): void {
    this.#detach();
    if (this.#entries.size === 0) {
      this.#setState({ kind: 'idle' });
      return;
    }
    const { firstDelay, longestDelay, random, now } = this.#options;
    const full = Math.min(longestDelay, firstDelay * 2 ** this.#attempt);
    // Half fixed, half random: many pages that lost one server do not come back in step.
    const delay = full / 2 + (full / 2) * random();
    this.#attempt++;
    this.#setState({ kind: 'waiting', attempt: this.#attempt, retryAt: now() + delay });
    this.#retryTimer = setTimeout(() => this.#connect(), delay);
  }

  #receive(message: ServerMessage): void {
    if (message.type === 'error' && message.id === null) {
      for (const entry of this.#entries) entry.handler.error(message.code, message.message, message.hint);
      return;
    }
    const entry = [...this.#entries].find((candidate) => candidate.id === message.id);
    if (!entry || entry.over) return;
    switch (message.type) {
      case 'schema':
        entry.handler.schema(message.columns);
        break;
      case 'frame':
        if (!message.reset && message.lower !== entry.upper) {
          this.#startAgain(entry);
          break;
        }
        entry.upper = message.upper;
        entry.resume = message.resume ?? entry.resume;
        entry.handler.frame(message);
        break;
      case 'error':
        entry.over = true;
        entry.resume = null;
        entry.upper = null;
        entry.handler.error(message.code, message.message, message.hint);
        break;
      case 'end':
        entry.over = true;
        entry.resume = null;
        entry.upper = null;
        entry.handler.end(message.reason);
        break;
    }
  }

  #startAgain(entry: Entry): void {
    this.#send(unsubscribeMessage(entry.id));
    entry.id = this.#newId();
    entry.resume = null;
    entry.upper = null;
    this.#send(subscribeMessage(entry.id, entry.target, null));
  }
}
