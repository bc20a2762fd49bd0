import { Component, type ReactNode } from 'react';

/** A fault of the page itself is said, not shown as an empty window. */
export class Boundary extends Component<{ readonly children: ReactNode }, { readonly fault: string | null }> {
  override state: { readonly fault: string | null } = { fault: null };

  static getDerivedStateFromError(cause: unknown): { fault: string } {
    return { fault: cause instanceof Error ? cause.message : String(cause) };
  }

  override render(): ReactNode {
    if (this.state.fault === null) return this.props.children;
    return (
      <div className="fault" role="alert">
        <h1>This page broke</h1>
        <p>{this.state.fault}</p>
        <button type="button" className="button" onClick={() => window.location.reload()}>Reload</button>
      </div>
    );
  }
}
