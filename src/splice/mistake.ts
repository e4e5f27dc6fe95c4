/** What is wrong with a plan: a bug of the planner. */
export class Mistake extends Error {}
