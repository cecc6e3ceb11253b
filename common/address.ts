/** HOST:PORT as people write it: `127.0.0.1:9400`, `[::1]:9400`, `localhost:9400`. */

export interface Address {
  host: string;
  /** 0 to 65535; 0 means "any free port" where something listens. */
  port: number;
}

export const masterAddressDefault = "127.0.0.1:9400";

/** Parses HOST:PORT, or returns the reason why it cannot. */
export function parseAddress(text: string): Address | string {
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([^:[\]/\s]+)):(\d{1,5})$/.exec(text);
  if (!match) return `'${text}' is not HOST:PORT, for example ${masterAddressDefault}`;
  const port = Number(match[3]);
  if (port > 65_535) return `port ${port} in '${text}' is above 65535`;
  return { host: match[1] ?? match[2] ?? "", port };
}

export function formatAddress({ host, port }: Address): string {
  return host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`;
}
