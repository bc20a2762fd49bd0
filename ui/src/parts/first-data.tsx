/** What to do when there is nothing to see yet: how to send something, ready to copy. */
import { useState, type ReactNode } from 'react';
import { useAccess } from '../access/access.ts';
import { CopyButton } from './copy-button.tsx';
import { Segments } from './segments.tsx';
import { targetOf, ways } from './ways.ts';

export function FirstData({ what }: { readonly what: string }): ReactNode {
  const all = ways(targetOf(useAccess(), window.location.hostname));
  const [way, setWay] = useState<keyof typeof all>('environment');
  const { text, note } = all[way];
  return (
    <section className="first-data" aria-label="How to send data">
      <h2>{what}</h2>
      <p className="muted">Point an OpenTelemetry SDK here. This page fills as soon as the first span arrives, no reload needed.</p>
      <Segments
        label="Way to send data"
        value={way}
        onChange={setWay}
        options={(Object.keys(all) as (keyof typeof all)[]).map((value) => ({ value, label: all[value].label }))}
      />
      <div className="code-block">
        {/* A region that scrolls must be reachable by keyboard. */}
        {/* eslint-disable-next-line jsx-a11y/no-noninteractive-tabindex */}
        <pre tabIndex={0}>{text}</pre>
        <CopyButton text={text} />
      </div>
      <p className="muted">{note}</p>
    </section>
  );
}
