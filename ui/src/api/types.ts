/** The bodies of `/api/v1`, in the words of the contract. Fields that an answer may leave out are optional. */
import type { Cell } from '../live/protocol.ts';

/** Who the page is to the server, and where telemetry goes (`host:port`). */
export interface Caller {
  /** `null`: every project. */
  readonly project: string | null;
  readonly keys: boolean;
  readonly otlp_http: string | null;
  readonly otlp_grpc: string | null;
}

export interface MonitorColumn {
  readonly name: string;
  readonly type: string;
  readonly key?: boolean;
}

export interface Monitor {
  readonly name: string;
  readonly sql?: string;
  readonly description?: string | null;
  readonly builtin?: boolean;
  readonly columns?: readonly MonitorColumn[];
  readonly state?: string;
  readonly rows?: number | string | null;
  readonly start?: number | string | null;
  /** Views derived from it: `<name>$late`, `<name>$errors`. */
  readonly companions?: readonly string[];
  /** Rows that came too late to be counted. */
  readonly late_rows?: number | string;
  /** Rows left out because an expression failed on them. */
  readonly errors?: number | string;
  readonly retention?: string;
  readonly lateness?: string;
}

export interface Explanation {
  readonly columns?: readonly MonitorColumn[];
  /** One node a line. */
  readonly plan?: string;
  readonly logical?: string;
  readonly operators?: readonly string[];
  readonly state?: string;
}

export interface SqlAnswer {
  readonly columns: readonly { readonly name: string; readonly type: string }[];
  readonly rows: readonly (readonly Cell[])[];
  readonly row_count: number;
  readonly truncated: boolean;
  readonly as_of?: number | string | null;
  readonly elapsed_ms?: number;
}

export interface TraceItem {
  readonly trace_id: string;
  readonly root_name?: string | null;
  readonly service_name?: string | null;
  readonly start_time: string;
  readonly duration_ms?: number | null;
  readonly span_count?: number | string;
  readonly error_count?: number | string;
  readonly models?: readonly string[];
  readonly input_tokens?: number | string | null;
  readonly output_tokens?: number | string | null;
  readonly user_id?: string | null;
  readonly session_id?: string | null;
  readonly status?: string | null;
}

/** A row of the stream `spans`, by the names of its columns. */
export type Span = Readonly<Record<string, unknown>>;

export interface Trace {
  readonly trace_id: string;
  readonly spans: readonly Span[];
  /** There were more spans than these. */
  readonly truncated?: boolean;
}
