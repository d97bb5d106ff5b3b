/** What this page reads of the token in a person's link. Nothing is decided by it: the server checks the token. */
import * as v from "valibot";

const Payload = v.object({ data: v.object({ name: v.optional(v.string(), "") }) });

/** The name that the others will see, where the token says one; empty otherwise. */
export function nameInToken(token: string): string {
  try {
    const base64 = (token.split(".")[1] ?? "").replaceAll("-", "+").replaceAll("_", "/");
    const bytes = Uint8Array.from(atob(base64), (char) => char.charCodeAt(0));
    return v.parse(Payload, JSON.parse(new TextDecoder().decode(bytes))).data.name;
  } catch {
    return ""; // no token of ours: the server says so at the join
  }
}
