import { type Static, type TProperties, type TSchema, Type } from "typebox";
import { Compile } from "typebox/compile";

/** A request that two programs agree on: declared once, checked at run time, typed on both ends. */
export interface Method<Request = unknown, Reply = unknown> {
  /** Forever: a retired number is never reused. */
  readonly code: number;
  readonly name: string;
  readonly requestSchema: TSchema;
  readonly replySchema: TSchema;
  /** True when the request can change metadata: it carries `seq`, and its reply is remembered. */
  readonly mutates: boolean;
  /** The reason why `value` is no such request, or undefined. */
  checkRequest(value: unknown): string | undefined;
  checkReply(value: unknown): string | undefined;
  /** Never present: carries the types. */
  readonly types?: { request: Request; reply: Reply };
}

export type RequestOf<M> = M extends Method<infer Request> ? Request : never;
export type ReplyOf<M> = M extends Method<unknown, infer Reply> ? Reply : never;

type ObjectOf<P extends TProperties> = Static<ReturnType<typeof Type.Object<P>>>;

function checker(schema: TSchema): (value: unknown) => string | undefined {
  // Compiled when first used: a program uses few of the methods, and compiling all takes half a
  // second.
  let compiled: ReturnType<typeof Compile> | undefined;
  return (value) => {
    compiled ??= Compile(schema);
    if (compiled.Check(value)) return undefined;
    const [first] = compiled.Errors(value);
    return first ? `${first.instancePath || "/"} ${first.message}` : "has another shape";
  };
}

export function method<Request extends TProperties, Reply extends TProperties>(declared: {
  code: number;
  name: string;
  request: Request;
  reply: Reply;
}): Method<ObjectOf<Request>, ObjectOf<Reply>> {
  return declare(declared, false);
}

/**
 * A method that changes metadata. `seq` counts a session's mutations from 1; a retry has the number
 * of the first try. `acked`: replies up to this number have arrived and can be forgotten (P7).
 */
export function mutation<Request extends TProperties, Reply extends TProperties>(declared: {
  code: number;
  name: string;
  request: Request;
  reply: Reply;
}): Method<ObjectOf<Request> & Sequence, ObjectOf<Reply>> {
  const request = { ...declared.request, seq: Type.Integer(), acked: Type.Integer() };
  return declare({ ...declared, request }, true) as unknown as Method<
    ObjectOf<Request> & Sequence,
    ObjectOf<Reply>
  >;
}

export interface Sequence {
  seq: number;
  acked: number;
}

function declare<Request extends TProperties, Reply extends TProperties>(
  declared: { code: number; name: string; request: Request; reply: Reply },
  mutates: boolean,
): Method<ObjectOf<Request>, ObjectOf<Reply>> {
  const requestSchema = Type.Object(declared.request, { additionalProperties: false });
  const replySchema = Type.Object(declared.reply, { additionalProperties: false });
  return {
    code: declared.code,
    name: declared.name,
    requestSchema,
    replySchema,
    mutates,
    checkRequest: checker(requestSchema),
    checkReply: checker(replySchema),
  };
}
