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
  /** Why it stopped, where it did. */
  readonly reason?: string | null;
}

/** A declared column of a stream. */
export interface Field {
  readonly stream: string;
  readonly name: string;
  readonly type: string;
  readonly description?: string | null;
  readonly unit?: string | null;
}

/** An operator of a plan; `inputs` are the numbers of those it reads. */
export interface ExplainedNode {
  readonly node: number;
  readonly inputs: readonly number[];
  readonly title: string;
  readonly detail?: string | null;
  /** Monitors that use the same one. */
  readonly shared_with?: readonly string[];
}

/** What an operator did since it was installed, over all workers. */
export interface NodeFigures {
  readonly node: number;
  readonly rows_out?: number | string | null;
  readonly state_rows?: number | string | null;
  readonly state_bytes?: number | string | null;
  readonly busy_us?: number | string | null;
}

export interface Explanation {
  readonly columns?: readonly MonitorColumn[];
  /** One node a line. */
  readonly plan?: string;
  /** The same, to be drawn; in the order of the lines. */
  readonly nodes?: readonly ExplainedNode[];
  readonly analyze?: readonly NodeFigures[];
  readonly logical?: string;
  readonly operators?: readonly string[];
  readonly state?: string;
}

/** How the engine is doing. */
export interface Status {
  readonly version?: string;
  /** Milliseconds since 1970. */
  readonly tick?: number | string;
  readonly complete_tick?: number | string;
  readonly workers?: number;
  readonly replaying?: boolean;
  readonly lag_ms?: number | string;
  /** By stream, since the beginning. */
  readonly rows_admitted?: Readonly<Record<string, number | string>>;
  readonly duplicates?: number | string;
  readonly late_rows?: number | string;
  readonly decode_errors?: number | string;
  readonly rejected_rows?: number | string;
  readonly log_backlog_bytes?: number | string;
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
