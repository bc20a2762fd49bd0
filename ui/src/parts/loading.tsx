import { useEffect, useState, type ReactNode } from 'react';

/** Says what is being waited for; after some seconds also what may be the matter. */
export function Loading({ what, slow }: { readonly what: string; readonly slow?: ReactNode }): ReactNode {
  const [long, setLong] = useState(false);
  useEffect(() => {
    const timer = setTimeout(() => setLong(true), 4000);
    return () => clearTimeout(timer);
  }, []);
  return (
    <div className="loading" role="status">
      <div className="loading-bar" aria-hidden="true" />
      <p>{what}</p>
      {long && slow !== undefined ? <p className="muted">{slow}</p> : null}
    </div>
  );
}
