/** Everything one span says. */
import { useState, type ReactNode } from 'react';
import type { Span } from '../api/types.ts';
import type { Cell } from '../live/protocol.ts';
import { clock, day, decimal, duration, integer, line, nothing } from '../format.ts';
import { CopyButton } from '../parts/copy-button.tsx';
import { Icon } from '../parts/icons.tsx';
import { href } from '../route.ts';
import { classColor } from './classes.ts';
import { attributeText, readContent, readList, readMap } from './content.ts';
import type { SpanNode, TraceTree } from './tree.ts';

const longText = 6000;

function text(span: Span, field: string): string | null {
  const value = span[field];
  if (typeof value === 'string') return value === '' ? null : value;
  return typeof value === 'number' || typeof value === 'boolean' ? String(value) : null;
}

export function SpanDetail({ span, node, tree, onClose, onZoom }: { readonly span: Span; readonly node: SpanNode; readonly tree: TraceTree; readonly onClose: () => void; readonly onZoom: () => void }): ReactNode {
  const message = text(span, 'status_message');
  const tokens = ['input_tokens', 'output_tokens', 'cache_read_tokens', 'cache_write_tokens', 'reasoning_tokens'].filter((field) => text(span, field) !== null);
  const meaning = ['operation', 'provider', 'model_requested', 'model', 'model_version', 'temperature', 'max_tokens', 'finish_reason', 'reported_cost', 'agent_name', 'tool_name', 'prompt_name', 'prompt_version', 'error_type'].filter((field) => text(span, field) !== null);
  const firstToken = Number(text(span, 'time_to_first_token_ns') ?? NaN) / 1e6;
  const begun = tree.start + node.offset;
  const events = readList(span['events']);
  const links = readList(span['links']);
  return (
    <aside className="detail" aria-label="Selected span">
      <header>
        <span className="chip class" style={{ borderColor: classColor(node.spanClass) }}>{line(node.spanClass).slice(0, 40)}</span>
        {node.failed ? <span className="chip bad"><Icon name="alert" size={12} />error</span> : <span className="chip">{line(text(span, 'status') ?? 'unset')}</span>}
        <span className="spring" />
        <button type="button" className="button small quiet" onClick={onZoom}>Zoom</button>
        <button type="button" className="button icon-only quiet" aria-label="Close" onClick={onClose}><Icon name="close" size={14} /></button>
      </header>
      <h2 className="detail-name">{line(node.name) || <i className="muted">no name</i>}</h2>
      {message === null ? null : <p className={node.failed ? 'detail-message bad' : 'detail-message'}>{message}</p>}
      <dl className="facts">
        <Fact name="duration">{duration(node.duration)}</Fact>
        <Fact name="start">{`${day(begun)} ${clock(begun, 'millis')}`} <span className="muted">+{duration(node.offset)}</span></Fact>
        {Number.isNaN(firstToken) ? null : <Fact name="first token">{duration(firstToken)}</Fact>}
        <Fact name="service">{line(text(span, 'service_name') ?? nothing)}{text(span, 'service_version') === null ? null : <span className="muted"> {line(text(span, 'service_version') ?? '')}</span>}</Fact>
        {meaning.map((field) => <Fact key={field} name={field.replaceAll('_', ' ')}>{line(field === 'temperature' ? decimal(Number(text(span, field))) : (text(span, field) ?? ''))}</Fact>)}
        {tokens.map((field) => <Fact key={field} name={field.replaceAll('_', ' ')}>{integer(span[field] as Cell)}</Fact>)}
        {(['user_id', 'session_id'] as const).map((field) => {
          const value = text(span, field);
          return value === null ? null : <Fact key={field} name={field.replace('_id', '')}><a href={href(['traces'], { [field.replace('_id', '')]: value })}>{line(value).slice(0, 80)}</a></Fact>;
        })}
        <Fact name="span id"><code>{line(node.id)}</code><CopyButton text={node.id} label="Copy the span id" quiet /></Fact>
        <Fact name="parent">{node.parentId === null ? <span className="muted">none</span> : <code>{line(node.parentId)}</code>}{node.loose === null ? null : <span className="chip loose">{node.loose}</span>}</Fact>
      </dl>
      <ContentBlock title="Input" value={span['input']} />
      <ContentBlock title="Output" value={span['output']} />
      {events.length === 0 ? null : (
        <details open>
          <summary>Events <span className="muted">{events.length}</span></summary>
          {events.slice(0, 200).map((event, index) => {
            const at = eventOffset(event, tree);
            return (
              <div className="event" key={index}>
                <div><b>{line(typeof event['name'] === 'string' ? event['name'] : '')}</b> <span className="muted">{at === null ? '' : `+${duration(at)}`}</span></div>
                <Pairs of={readMap(event['attributes'])} />
              </div>
            );
          })}
          {events.length > 200 ? <p className="muted">and {events.length - 200} more</p> : null}
        </details>
      )}
      <Attributes title="Attributes" value={span['attributes']} open />
      <Attributes title="Resource" value={span['resource']} />
      {links.length === 0 ? null : (
        <details>
          <summary>Links <span className="muted">{links.length}</span></summary>
          {links.slice(0, 200).map((link, index) => {
            const trace = typeof link['trace_id'] === 'string' ? link['trace_id'] : '';
            return <div className="event" key={index}><a href={href(['traces', trace])}><code>{line(trace)}</code></a><Pairs of={readMap(link['attributes'])} /></div>;
          })}
        </details>
      )}
    </aside>
  );
}

function eventOffset(event: Record<string, unknown>, tree: TraceTree): number | null {
  const time = event['time'] ?? event['time_unix_nano'];
  const millis = typeof time === 'string' && !/^\d+$/.test(time) ? Date.parse(time) : Number(time) / 1e6;
  return Number.isFinite(millis) && millis > 0 ? millis - tree.start : null;
}

function Fact({ name, children }: { readonly name: string; readonly children: ReactNode }): ReactNode {
  return (
    <div>
      <dt>{name}</dt>
      <dd>{children}</dd>
    </div>
  );
}

function ContentBlock({ title, value }: { readonly title: string; readonly value: unknown }): ReactNode {
  const content = readContent(value);
  if (content === null) return null;
  const raw = typeof value === 'string' ? value : JSON.stringify(value);
  return (
    <details open>
      <summary>{title}</summary>
      <div className="copy-corner"><CopyButton text={raw} label={`Copy the ${title.toLowerCase()}`} quiet /></div>
      {content.kind === 'messages' ? (
        content.messages.slice(0, 200).map((message, index) => (
          <div key={index} className={`message ${message.role === 'user' || message.role === 'assistant' ? message.role : ''}`}>
            <div className="message-role">{line(message.role).slice(0, 40)}</div>
            {message.text === '' ? null : <LongText text={message.text} />}
            {message.calls.map((call, at) => <pre key={at} className="call">{`${line(call.name)}(${call.arguments})`}</pre>)}
          </div>
        ))
      ) : (
        <LongText text={content.text} code={content.kind === 'json'} />
      )}
    </details>
  );
}

function LongText({ text: whole, code = false }: { readonly text: string; readonly code?: boolean }): ReactNode {
  const [all, setAll] = useState(false);
  const shown = all || whole.length <= longText ? whole : `${whole.slice(0, longText)}…`;
  return (
    <>
      <pre className={code ? 'content code' : 'content'}>{shown}</pre>
      {shown === whole ? null : <button type="button" className="button small" onClick={() => setAll(true)}>Show all {integer(whole.length)} characters</button>}
    </>
  );
}

function Attributes({ title, value, open = false }: { readonly title: string; readonly value: unknown; readonly open?: boolean }): ReactNode {
  const [filter, setFilter] = useState('');
  const all = readMap(value);
  if (all.length === 0) return null;
  const word = filter.toLowerCase();
  const shown = word === '' ? all : all.filter(([name, entry]) => name.toLowerCase().includes(word) || attributeText(entry).toLowerCase().includes(word));
  return (
    <details open={open}>
      <summary>{title} <span className="muted">{all.length}</span></summary>
      {all.length > 12 ? <input className="field" type="search" placeholder="Filter" aria-label={`Filter ${title.toLowerCase()}`} value={filter} onChange={(event) => setFilter(event.target.value)} /> : null}
      <Pairs of={shown.slice(0, 500)} />
      {shown.length > 500 ? <p className="muted">and {integer(shown.length - 500)} more; filter to find them</p> : null}
    </details>
  );
}

function Pairs({ of }: { readonly of: readonly [string, unknown][] }): ReactNode {
  return (
    <dl className="pairs">
      {of.map(([name, value]) => (
        <div key={name}>
          <dt>{line(name).slice(0, 200)}</dt>
          <dd>{attributeText(value).slice(0, longText)}</dd>
        </div>
      ))}
    </dl>
  );
}
