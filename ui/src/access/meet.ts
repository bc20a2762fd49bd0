/** Asks the server who the page is to it, at the start and whenever the connection was lost; and which projects it has. */
import { readCaller, runSqlEverywhere } from '../api/client.ts';
import { Problem } from '../api/problem.ts';
import { pageConnection } from '../live/page-connection.ts';
import { accessNow, admitted, noteProjects, onAccess } from './access.ts';

const every = 5_000;

async function meet(): Promise<void> {
  try {
    admitted(await readCaller());
    await findProjects();
  } catch (cause) {
    // A refusal is noted where requests are made; a server that is away comes back.
    if (!(cause instanceof Problem)) throw cause;
  }
}

async function findProjects(): Promise<void> {
  if (accessNow().keyed !== false) return;
  const answer = await runSqlEverywhere('SELECT DISTINCT project FROM live.requests', 1000);
  noteProjects(answer.rows.flatMap(([project]) => (typeof project === 'string' ? [project] : [])));
}

/** Begins; answers how to end. */
export function keepAcquainted(): () => void {
  void meet();
  let epoch = accessNow().epoch;
  const stopFollowing = onAccess(() => {
    if (accessNow().epoch === epoch) return;
    epoch = accessNow().epoch;
    pageConnection.restart();
    void meet();
  });
  let lost = false;
  const stopWatching = pageConnection.onState(() => {
    const { kind } = pageConnection.state;
    // A browser does not say why a WebSocket was refused; a request does.
    if (kind === 'waiting' || (kind === 'open' && lost)) void meet();
    if (kind === 'waiting' || kind === 'open') lost = kind === 'waiting';
  });
  const timer = setInterval(() => {
    if (document.visibilityState === 'visible') void findProjects().catch(() => undefined);
  }, every);
  return () => {
    stopFollowing();
    stopWatching();
    clearInterval(timer);
  };
}
