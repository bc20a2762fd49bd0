/** The frame around every page: the rail, the bar with project and connection, and which page the address names. */
import { lazy, Suspense, useEffect, useState, type ReactNode } from 'react';
import { askForKey, chooseProject, forgetKey, useAccess } from './access/access.ts';
import { KeyPage } from './access/key-page.tsx';
import { keepAcquainted } from './access/meet.ts';
import { pageConnection, useConnectionState } from './live/page-connection.ts';
import { OverviewPage } from './overview/page.tsx';
import { Icon, Mark, type IconName } from './parts/icons.tsx';
import { Loading } from './parts/loading.tsx';
import { useRoute, type Route } from './route.ts';
import { toggleTheme, useTheme } from './theme.ts';

const MonitorsPage = lazy(() => import('./monitors/list-page.tsx'));
const MonitorPage = lazy(() => import('./monitors/monitor-page.tsx'));
const NewMonitorPage = lazy(() => import('./monitors/new-page.tsx'));
const TracesPage = lazy(() => import('./traces/list-page.tsx'));
const TracePage = lazy(() => import('./traces/trace-page.tsx'));
const SqlPage = lazy(() => import('./sql/page.tsx'));
const SystemPage = lazy(() => import('./system/page.tsx'));

const places: readonly { path: string; name: string; icon: IconName }[] = [
  { path: '', name: 'Overview', icon: 'overview' },
  { path: 'monitors', name: 'Monitors', icon: 'monitors' },
  { path: 'new', name: 'New monitor', icon: 'create' },
  { path: 'traces', name: 'Traces', icon: 'traces' },
  { path: 'sql', name: 'SQL', icon: 'sql' },
  { path: 'system', name: 'System', icon: 'system' },
];

function page({ path: [place = '', name, ...rest] }: Route, epoch: string): { title: string; content: ReactNode } {
  if (rest.length === 0) {
    switch (place) {
      case '':
        return { title: 'Overview', content: <OverviewPage key={epoch} /> };
      case 'monitors':
        return name === undefined
          ? { title: 'Monitors', content: <MonitorsPage key={epoch} /> }
          : { title: name, content: <MonitorPage key={`${epoch}/${name}`} name={name} /> };
      case 'new':
        return { title: 'New monitor', content: <NewMonitorPage key={epoch} /> };
      case 'traces':
        return name === undefined
          ? { title: 'Traces', content: <TracesPage key={epoch} /> }
          : { title: `Trace ${name.slice(0, 8)}`, content: <TracePage key={`${epoch}/${name}`} traceId={name} /> };
      case 'sql':
        return { title: 'SQL', content: <SqlPage key={epoch} /> };
      case 'system':
        return { title: 'System', content: <SystemPage key={epoch} /> };
    }
  }
  return { title: 'Not found', content: <NotFound /> };
}

export function App(): ReactNode {
  const route = useRoute();
  const { epoch, refused, adding } = useAccess();
  useEffect(keepAcquainted, []);
  const { title, content } = refused !== null || adding ? { title: 'Key', content: <KeyPage /> } : page(route, String(epoch));
  useEffect(() => {
    document.title = `${title} · PyFlare`;
  }, [title]);
  return (
    <div className="app">
      <a className="skip" href="#main" onClick={(event) => { event.preventDefault(); document.getElementById('main')?.focus(); }}>
        Skip to content
      </a>
      <nav className="rail" aria-label="Pages">
        <a className="brand" href="#/" aria-label="PyFlare, overview">
          <Mark />
          <span>PyFlare</span>
        </a>
        {places.map(({ path, name, icon }) => (
          <a key={path} href={`#/${path}`} aria-current={(route.path[0] ?? '') === path ? 'page' : undefined}>
            <Icon name={icon} />
            <span>{name}</span>
          </a>
        ))}
        <span className="spring" />
        <ThemeButton />
      </nav>
      <div className="column">
        <div className="bar">
          <ProjectChoice />
          <span className="spring" />
          <Connection />
        </div>
        <main id="main" tabIndex={-1}>
          <Suspense fallback={<div className="page"><Loading what="Loading the page…" /></div>}>{content}</Suspense>
        </main>
      </div>
    </div>
  );
}

function ThemeButton(): ReactNode {
  const theme = useTheme();
  const other = theme === 'dark' ? 'light' : 'dark';
  return (
    <button type="button" className="theme-button" onClick={toggleTheme} aria-label={`Switch to ${other}`} title={`Switch to ${other}`}>
      <Icon name={theme === 'dark' ? 'sun' : 'moon'} />
      <span>{theme === 'dark' ? 'Light' : 'Dark'}</span>
    </button>
  );
}

const anotherKey = '\u0000another';
const noKey = '\u0000none';

function ProjectChoice(): ReactNode {
  const { project, known, keyed, refused } = useAccess();
  // Until a key is known there is no project to speak of.
  if (refused !== null && known.length < 2) return null;
  return (
    <label className="project">
      <span>Project</span>
      <select
        value={project}
        onChange={(event) => {
          if (event.target.value === anotherKey) askForKey(true);
          else if (event.target.value === noKey) forgetKey();
          else chooseProject(event.target.value);
        }}
      >
        {known.map((name) => (
          <option key={name} value={name}>{name}</option>
        ))}
        {keyed === true ? (
          <optgroup label="Keys">
            <option value={anotherKey}>Add a project…</option>
            <option value={noKey}>Forget the key of {project}</option>
          </optgroup>
        ) : null}
      </select>
    </label>
  );
}

function Connection(): ReactNode {
  const state = useConnectionState();
  const [now, setNow] = useState(0);
  useEffect(() => {
    if (state.kind !== 'waiting') return;
    const timer = setInterval(() => setNow(Date.now()), 500);
    return () => clearInterval(timer);
  }, [state.kind]);
  switch (state.kind) {
    case 'idle':
      return null;
    case 'open':
      return <span className="connection open" role="status"><i />Live</span>;
    case 'connecting':
      return <span className="connection busy" role="status"><i />{state.attempt === 0 ? 'Connecting…' : 'Reconnecting…'}</span>;
    case 'waiting':
      return (
        <span className="connection lost" role="status">
          <i />
          Disconnected
          <button type="button" className="button small" onClick={() => pageConnection.retryNow()}>
            Retry{now > 0 && state.attempt > 3 ? ` (${Math.max(0, Math.ceil((state.retryAt - now) / 1000))} s)` : ''}
          </button>
        </span>
      );
  }
}

function NotFound(): ReactNode {
  return (
    <div className="page">
      <header className="page-head"><h1>No such page</h1></header>
      <p className="muted">The address names no page of PyFlare. <a href="#/">Go to the overview</a>.</p>
    </div>
  );
}
